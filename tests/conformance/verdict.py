"""What a report says: the count of cases first, then how each ended.

Autobahn's fuzzing client ends with 0 whatever happened, without a server too; only its
``index.json`` tells. Each case has two verdicts there, ``behavior`` and ``behaviorClose``, and a
server may pass by one and fail by the other. The other suites pass or fail each of their tests.
Pure: reads no file and starts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["FULL_CASES", "INFORMATIONAL", "QUICK_CASES", "Judgement", "case_order", "judge", "judge_tests"]

FULL_CASES: Final = 517
QUICK_CASES: Final = 301
"""Without 12.* and 13.*, which are permessage-deflate."""

INFORMATIONAL: Final = frozenset({"7.1.6", "7.13.1", "7.13.2"})
"""Cases that the suite judges of nobody: there INFORMATIONAL is the full mark."""

MEMBERS: Final = ("behavior", "behaviorClose")


@dataclass(slots=True)
class Judgement:
    """How a run ended: counts by verdict, every remark on a case, and what makes the run fail."""

    cases: int = 0
    expected: int = 0
    behavior: Counter[str] = field(default_factory=Counter)
    close: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.failures


def case_order(case: str) -> tuple[int, ...]:
    """Sort cases as the suite numbers them: 9.2.1 before 10.1.1."""
    return tuple(int(part) if part.isdigit() else 0 for part in case.split("."))


def judge(index: Mapping[str, Any], agent: str, expected: int, explained: Mapping[str, str]) -> Judgement:
    """Judge the content of an ``index.json``.

    Args:
        index: agent name to case to verdicts.
        agent: the server's name in the report.
        expected: how many cases there have to be.
        explained: case to the reason why it may end NON-STRICT, or INFORMATIONAL beyond the usual three.
    """
    cases = index.get(agent, {})
    judgement = Judgement(cases=len(cases), expected=expected)
    if len(cases) != expected:
        judgement.failures.append(f"{len(cases)} cases in the report, and there have to be {expected}")
    for case in sorted(cases, key=case_order):
        verdicts = {member: str(cases[case].get(member, "MISSING")) for member in MEMBERS}
        judgement.behavior[verdicts["behavior"]] += 1
        judgement.close[verdicts["behaviorClose"]] += 1
        _judge_case(judgement, case, verdicts, cases[case].get("remoteCloseCode"), explained)
    return judgement


def judge_tests(outcomes: Mapping[str, str], expected: int, explained: Mapping[str, str]) -> Judgement:
    """Judge a suite whose tests pass or fail.

    Args:
        outcomes: test to ``passed``, or to anything else: ``failed: …``, ``skipped``, ``pending``.
        expected: how many tests there have to be.
        explained: test to the reason why it may fail.
    """
    judgement = Judgement(cases=len(outcomes), expected=expected)
    if len(outcomes) != expected:
        judgement.failures.append(f"{len(outcomes)} tests in the report, and there have to be {expected}")
    for test, outcome in outcomes.items():
        if outcome == "passed":
            judgement.behavior["OK"] += 1
        elif test in explained:
            judgement.behavior["EXPLAINED"] += 1
            judgement.remarks.append(f"{test}: {outcome}: {explained[test]}")
        else:
            judgement.behavior["FAILED"] += 1
            judgement.failures.append(f"{test}: {outcome}")
    return judgement


def _judge_case(
    judgement: Judgement,
    case: str,
    verdicts: Mapping[str, str],
    close_code: object,
    explained: Mapping[str, str],
) -> None:
    if set(verdicts.values()) == {"OK"}:
        return
    what = f"{case}: " + ", ".join(f"{member} {verdict}" for member, verdict in verdicts.items())
    what += f", closed with {close_code}"
    others = set(verdicts.values()) - {"OK"}
    if case in INFORMATIONAL:
        others.discard("INFORMATIONAL")
    if not others:
        judgement.remarks.append(f"{what}: as expected of everybody")
    elif others <= {"NON-STRICT", "INFORMATIONAL"}:
        if case in explained:
            judgement.remarks.append(f"{what}: {explained[case]}")
        else:
            judgement.failures.append(f"{what}: not explained")
    else:
        judgement.failures.append(what)
