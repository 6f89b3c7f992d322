"""The survey: chapters that measure a network on data and say in plain sentences what was found."""

from widescape.survey.chapter import Chapter, Context, SurveyReport
from widescape.survey.run import CHAPTERS, survey

__all__ = ["CHAPTERS", "Chapter", "Context", "SurveyReport", "survey"]
