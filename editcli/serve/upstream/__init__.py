"""A store in front of another engine: scope decides here, and the engine answers.

``asked`` reads requests, ``deciding`` asks the scope, ``parts`` says what the engine is asked,
``client`` and ``adapters`` ask it, ``replies`` say what was decided, and ``front`` is the server.
"""
