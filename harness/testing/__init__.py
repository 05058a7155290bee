"""The conformance kit: what every plugin must hold to, as plain pytest functions that an author imports.

A module a kind; each wants one fixture of the author's::

    from harness.testing.steps import *  # noqa: F403

    @pytest.fixture(params=LowRank.examples(), ids=str)
    def step(request):
        return request.param

Likewise ``architectures`` (fixture ``architecture``), ``datasets`` (``dataset``), ``metrics`` (``metric``) and
``runtimes`` (``runtime``). Each check that fails says what it wants, what it got and how to mend it.
"""
