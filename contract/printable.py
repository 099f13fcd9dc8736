"""Text that others have written, on its way to a terminal."""


def printable(text: str) -> str:
    """The same in one line, with a question mark for all that a terminal would obey or hide.

    A node may say what it likes, and so may whoever can publish in its name: escape sequences
    rewrite what stands on a screen, and an override of direction turns a line round.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
