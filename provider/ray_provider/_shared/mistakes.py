"""What tells a mistake in a program from a failure of what it asks."""

from __future__ import annotations

#: Raised by a mistake in a program: another try meets it again. What is raised by the clients of clouds, of Airflow and
#: of Kubernetes has no common base, so what is tried again is told from these.
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
