"""The engine: reads a program (a jaxpr of a function of parameters) and runs it at other sizes."""
