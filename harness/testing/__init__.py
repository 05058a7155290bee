"""The conformance kit: the rules that every plugin must follow, as plain pytest functions that an author imports.

There is one module per kind; each needs one fixture from the author::

    from harness.testing.steps import *  # noqa: F403

    @pytest.fixture(params=LowRank.examples(), ids=str)
    def step(request):
        return request.param

Likewise ``architectures`` (fixture ``architecture``), ``datasets`` (``dataset``), ``metrics`` (``metric``) and
``runtimes`` (``runtime``). A failing check prints what it wanted, what it got and how to fix it.
"""
