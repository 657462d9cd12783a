"""One module a verb. They parse and print; what they do is done by the runtime's modules."""
