"""Front ends: a model of some framework -> a function of its parameters. One file a framework, each optional."""
