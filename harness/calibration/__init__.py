"""The measuring put to the test: models whose answer is known, the rules of other tools, a look at the machine."""
