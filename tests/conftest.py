"""What every test shares. Light: the light rooms are tested where torch is not installed."""

from importlib.util import find_spec

if find_spec("lightning"):
    # Lightning's log handler keeps the stderr it finds at import; here that is the session's, which stays open, and not
    # the one of the test that happens to import it first.
    import lightning  # noqa: F401
