"""Load plugins, validate what they register, run their code in isolation, and scaffold new ones.

Public: `manager.Plugins` (what was loaded, and ``call``), `manager.installed` (the plugins of this environment),
`manager.step` (a step by its name), `scaffold` (a new plugin's files).
"""
