"""What tells a mistake in a program from a failure of what it asks."""

from __future__ import annotations

#: Raised by a mistake in a program: another try meets it again.
PROGRAMMING_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
)
