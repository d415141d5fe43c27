"""Where programs come from: the model in training, a server, or a data set of a teacher's programs."""
