"What every module needs and none owns: the error that carries a sentence, and the token that ends a text."

__all__ = ["END_OF_TEXT", "InputError"]

END_OF_TEXT = "<|endoftext|>"


class InputError(ValueError):
    "Input that cannot be used; its message says what is wrong, where, and what would be accepted."
