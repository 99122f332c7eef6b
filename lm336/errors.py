"What every module needs and none owns: an error with a sentence, the token that ends a text."

__all__ = ["END_OF_TEXT", "InputError"]

END_OF_TEXT = "<|endoftext|>"


class InputError(ValueError):
    "Input that cannot be used: the message says what is wrong, where, and what is accepted."
