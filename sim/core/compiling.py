"""What the wheel's compiler is told about a class: `mypyc_attr`, which changes nothing in plain Python.

    allow_interpreted_subclasses    a subclass in plain Python may override what it likes, and is obeyed
    native_class=False              it stays an ordinary class: errors, which compiled could not be what they
                                    are, and dataclasses, which could not be pickled or copied

The compiler knows the marks by the name that `mypy_extensions` gives them. Nobody who runs pagecast needs
that package, so it is imported where types are checked only. This file itself stays plain Python;
`tests/test_compilable.py` says which class needs which mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(*names, **values):
        """Mark a class for the compiler; here it is left as it is."""
        return lambda marked: marked
