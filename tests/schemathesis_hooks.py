"""What a client knows that JSON Schema cannot say, so that schemathesis takes no right answer for a wrong one."""

import re
import uuid
from typing import Any

import schemathesis

from service import fields

KEY, TIMING = re.compile(fields.IDEMPOTENCY_KEY), re.compile(fields.TIMING)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Book as clients do: with a new Idempotency-Key each time, at one of the theatre's timings.

    The example's key, and a short one that is made up twice, would rightly be refused. A move to a timing that does not
    exist is a 404 which looks as if the ticket did not.
    """
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and KEY.fullmatch(key) and len(key) <= 255:
        case.headers["Idempotency-Key"] = f"k{key[:200]}-{uuid.uuid4()}"
    if isinstance(case.body, dict):
        for field in ("timing", "timing_alter"):
            timing = case.body.get(field)
            if isinstance(timing, str) and TIMING.fullmatch(timing):
                case.body[field] = f"{timing[:-2]}{int(timing[-2:]) // 15 * 15:02}"
