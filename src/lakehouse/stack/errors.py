"""What goes wrong with the local servers, said in one line."""


class StackError(Exception):
    """One line: what is wrong, where, and the command that mends it."""
