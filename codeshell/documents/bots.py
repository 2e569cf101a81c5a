"""Programs that write issues, comments and commits: by the names that BigCode found, compared without case.

BigCode compared one ending in upper case with names in lower case, so that it never matched; here all are lower-case.
"""

from __future__ import annotations

INSIDE = (
    "[bot]",
    "botmanager",
    "bors-",
    "jenkins",
    "k8s-",
    "-test-",
    "travis",
    "dependabot",
    "renovate",
    "greenkeeper",
)
ENDINGS = (
    *("-automaton", "-automation", "-benchmark", "-build", "-deployer", "-cloud", "bot", "-ci", "-linter"),
    *("-teamcity", "-test", "-testing", "-service-account"),
)
NAMES = frozenset(
    """apache-hbase autorestci claassistant cmsbuild codecov-io codecov-commenter coveralls danger-public dnfclas
    msftclas pydocteur sparkqa karma-pr-reporter claassistantio probot-stale""".split()  # noqa: SIM905
)

PEOPLE = frozenset({"abbot", "talbot", "cabot", "tarbot"})
"""Names of people that end like a program's."""


def is_bot(author: str) -> bool:
    """Whether an author is a program, by its name."""
    name = author.strip().lower()
    words = name.split()
    if not words or words[-1] in PEOPLE:
        return False
    return name in NAMES or name.endswith(ENDINGS) or any(part in name for part in INSIDE)
