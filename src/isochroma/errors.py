"""The one exception a user meets: a sentence that says what is wrong and what to do."""


class InputError(ValueError):
    """Raised for input that cannot be processed; the message names the problem and the remedy."""
