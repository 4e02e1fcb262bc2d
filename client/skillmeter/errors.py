"""The errors of skillmeter, split by who has to act on them."""

import sys
from typing import Final


class SkillmeterError(Exception):
    """Base of everything skillmeter raises on purpose."""


class ConfigError(SkillmeterError, ValueError):
    """Settings are wrong: the operator has to change them. `problems` holds one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidEventError(SkillmeterError, ValueError):
    """An event has an invalid value: the caller has to change it. Only raised in strict mode.

    `reason` is the name under which the ledger counts it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DaemonUnavailable(SkillmeterError, ConnectionError):
    """No daemon answered within the bound. The message says where it was looked for and how to start it."""


class QueryError(SkillmeterError, ValueError):
    """The daemon refused a query: its arguments are wrong."""


class WireError(SkillmeterError):
    """A peer sent something that is not in the protocol. The message is dropped; the connection goes on."""


class JournalError(SkillmeterError):
    """A journal cannot be used. `reason` is the name under which the ledger counts the drop."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CorruptJournal(JournalError):
    """Bytes on disk are not what any writer leaves behind. `path` and `offset` say where."""

    def __init__(self, message: str, *, path: str = "", offset: int = 0) -> None:
        super().__init__("corrupt", f"{message} ({path} at byte {offset})" if path else message)
        self.path = path
        self.offset = offset


_KNOWN: Final = sys.stdlib_module_names | {"skillmeter", "msgspec", "zmq"}  # whose errors may come up in a call of ours


def came_between(error: BaseException) -> bool:
    """Whether other code raised this than the C call that stood alone in the `try`: a signal handler that ran right
    after it, or another thread. Then the call was made, and must not be made again."""
    trace = error.__traceback__
    return trace is not None and (trace.tb_next is not None or type(error).__module__.partition(".")[0] not in _KNOWN)


def meant_for_caller(error: BaseException) -> bool:
    """Whether this error, a timeout perhaps, only passed through our code on its way to our caller.

    A signal handler raised it: handlers are the functions that have the frame that they interrupt among their
    arguments. Or another thread put it there (PyThreadState_SetAsyncExc): no code but ours and Python's took part, and
    neither raises errors of such a type. One function without calls of others, as the stack may be nearly full.
    """
    outer = error.__traceback__
    is_ours = True
    while outer is not None:
        is_ours = is_ours and str(outer.tb_frame.f_globals.get("__name__")).partition(".")[0] in _KNOWN
        inner = outer.tb_next
        if inner is not None:
            for value in inner.tb_frame.f_locals.values():
                if value is outer.tb_frame or (type(value) is tuple and any(part is outer.tb_frame for part in value)):
                    return True
        outer = inner
    return is_ours and type(error).__module__.partition(".")[0] not in _KNOWN
