"""The survey: chapters that measure a network on data and say in plain sentences what was found.

The room is also its own main function: ``widescape.survey(system)`` is `widescape.survey.survey(system)`.
"""

import sys
from types import ModuleType
from typing import Any

from widescape.survey.chapter import Chapter, Context, LeftOutError, SurveyReport
from widescape.survey.run import CHAPTERS, survey
from widescape.survey.subject import load_model

__all__ = ["CHAPTERS", "Chapter", "Context", "LeftOutError", "SurveyReport", "load_model", "survey"]


class _CallableRoom(ModuleType):
    """The module, which can be called like `survey`."""

    def __call__(self, *args: Any, **kwargs: Any) -> SurveyReport:
        return survey(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
