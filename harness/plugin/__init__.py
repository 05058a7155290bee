"""Load plugins, validate what they register, run their code in isolation, and scaffold new ones."""
