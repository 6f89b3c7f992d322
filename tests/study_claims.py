"""The claims of a study, for tests of studies."""


def claims(study):
    return {own.name: own for own in study.claims}
