"""A lock that ends with the process that has it, however that ends."""

from typing import IO

from litseq.errors import UsageError


def lock(file: IO[bytes] | int, name: object, advice: str) -> None:
    """Keep a second process from writing where this one does; nothing where the system knows no such lock.

    Args:
        file: The file or directory, open: the lock ends when it is closed.
        name: What an error calls it.
        advice: What to do where another process has it.

    Raises:
        UsageError: Another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows refuses the second one by itself when it renames
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{name} is being written by another process; {advice}") from None
    except OSError:  # a file system without locks
        return
