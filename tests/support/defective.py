"""A defect in what writes, when a test wants it: ``python -m support.defective worker …`` is ``lq worker …``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from litestar_queues.store.sqlite.bells import Ringer

VARIABLE = "LQ_TEST_DEFECT"
"""Names the file that calls for it."""


class DefectError(Exception):
    """What nobody has thought of."""


def _install(file: Path) -> None:
    pay = Ringer.pay

    def pay_or_fail(ringer: Ringer) -> float | None:
        if file.exists():
            raise DefectError("nobody has thought of this")
        return pay(ringer)

    Ringer.pay = pay_or_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    from lq.__main__ import main

    _install(Path(os.environ[VARIABLE]))
    sys.argv[0] = "lq"
    main()
