"python -m lm336 COMMAND: the commands of `lm336.cli`."

from .cli import main

if __name__ == "__main__":
    main()
