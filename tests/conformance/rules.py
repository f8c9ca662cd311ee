"""Which tests count, in which group, and which are still to come.

`classification.json` has ordered lists of rules; in each the first rule with a pattern that matches
a test id decides. Patterns are shell globs over `test_module.TestClass.test_method`; a rule's
`python` key, such as ">=3.12", limits it to some interpreters.

  categories     public (any complete asyncio must pass it; the default), internal (tests the
                 stdlib's private implementation), variant (repeats a counted test on another part
                 of the stdlib) or platform; all but the first are not run
  groups         the rows of the table
  retarget_base  tests that name BaseEventLoop but exercise any loop

`pending.txt` has lines `pattern | feature | issue topic`: such a test must fail by a
NotImplementedError that names the feature, no more and no less.
"""

import fnmatch
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


def matches(test_id, patterns):
    return any(fnmatch.fnmatchcase(test_id, pattern) for pattern in patterns)


class Classification:
    def __init__(self, path=HERE / "classification.json"):
        document = json.loads(path.read_text())
        self._categories = [rule for rule in document["categories"] if _applies(rule)]
        self._groups = [rule for rule in document["groups"] if _applies(rule)]
        self._retarget_base = document["retarget_base"]
        self.groups = list(dict.fromkeys(rule["group"] for rule in document["groups"]))

    def category(self, test_id):
        return _first(self._categories, test_id).get("category", "public")

    def group(self, test_id):
        return _first(self._groups, test_id)["group"]

    def retargets_base(self, test_id):
        return matches(test_id, self._retarget_base)


def _first(rules, test_id):
    return next((rule for rule in rules if matches(test_id, rule["match"])), {})


def _applies(rule):
    if "python" not in rule:
        return True
    operator, minor = re.fullmatch(r"(<|<=|>=|==)3\.(\d+)", rule["python"]).groups()
    mine, wanted = sys.version_info[1], int(minor)
    return {"<": mine < wanted, "<=": mine <= wanted, ">=": mine >= wanted, "==": mine == wanted}[operator]


class Pending(NamedTuple):
    pattern: str
    feature: str
    topic: str
    #: Why it cannot even be run: it waits for what the missing feature would do, or hides the error.
    unrunnable: str = ""

    def explains(self, detail):
        """True if this text of a failure names the feature as not implemented."""
        return bool(re.search("NotImplementedError.*" + re.escape(self.feature), detail, re.I))


def read_pending(path):
    """The lines of a pending.txt; ValueError for one that is none."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) not in (3, 4) or not all(fields):
            raise ValueError(f"{path}:{number}: expected 'test-id-glob | feature | issue topic [| why not run]'")
        found.append(Pending(*fields))
    return found
