// Three grammars to begin with, in chapter 23's notation: title -> text.
export const GRAMMARS = {
  "Weather in three lines": `# weather
In the [morning|evening] it was [sunny|rainy|cloudy|windy].
At night there was [snow|fog|thunder|moonlight].
We [stayed at home|went out] all the same.
`,
  "Lost and found: two plots": `[child name he him his]
* / he / him / his: Ben, Leo, Sam, Tom
* / she / her / her: Eva, Ida, Mia, Zoe

[animal name cry]
cat / mewed, dog / barked, duck / quacked, frog / croaked

[toy]
ball, boat, drum, kite

[colour]
blue, green, red, yellow

# Lost | hero child, friend child, toy toy
One day {hero} lost {his} <colour> {toy}.
{Friend} looked [in the garden|under the bed|behind the door|on the roof].
"[Here it is|I see it]!" said {friend}.
{Hero} thanked {friend} and [laughed|danced|smiled|sang].

# Found | hero child, pet animal
One day {hero} found a [small|lonely|hungry|lazy] {pet} [by the river|in the garden|near the school|on the road].
It {pet.cry} and followed {him} home.
{He} gave it [milk|bread|soup|fish] and a <colour> [basket|blanket|box|bed].
`,
  "Agreement over a distance": `[singer name song]
cat / mew, cow / moo, dog / bark, duck / quack
frog / croak, hen / cluck, owl / hoot, sheep / bleat

<wait>
The [clock|wind|rain|fire] [was quiet|went on|stopped|sang].
Nobody [came|spoke|moved|slept].

# The knock | guest singer
There was {a guest} at the door.
<wait> <wait> <wait>
Then it began to {guest.song}, as every {guest} does.
`,
};
