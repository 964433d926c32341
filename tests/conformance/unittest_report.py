"""Run by Python 2.7 with the path of a file of unittest cases: runs them all, and prints how each ended.

The last line of its output is a JSON object: test to "passed", "skipped", or "failed: the last line of why".
"""

import imp  # type: ignore[import-not-found, unused-ignore]
import json
import os
import sys

import unittest2  # type: ignore[import-not-found, unused-ignore]


class Report(unittest2.TestResult):  # type: ignore[misc, unused-ignore]
    """Notes how each test ended."""

    def __init__(self):  # type: ignore[no-untyped-def]
        super(Report, self).__init__()  # noqa: UP008
        self.outcomes = {}

    def _note(self, test, outcome):  # type: ignore[no-untyped-def]
        self.outcomes[test.id().split(".", 1)[1]] = outcome

    def addSuccess(self, test):  # type: ignore[no-untyped-def]
        self._note(test, "passed")

    def addSkip(self, test, reason):  # type: ignore[no-untyped-def]
        self._note(test, "skipped")

    def addFailure(self, test, err):  # type: ignore[no-untyped-def]
        super(Report, self).addFailure(test, err)  # noqa: UP008
        self._note(test, "failed: " + self._exc_info_to_string(err, test).strip().splitlines()[-1])

    addError = addFailure


path = sys.argv[1]
sys.path.insert(0, os.path.dirname(path))
suite = unittest2.defaultTestLoader.loadTestsFromModule(imp.load_source("suite", path))
report = Report()
suite.run(report)
sys.stdout.write("\n" + json.dumps(report.outcomes) + "\n")
# Its WebSocket clients may have left threads behind.
sys.stdout.flush()
os._exit(0)
