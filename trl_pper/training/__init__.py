"""Train on drawn programs: the configuration, the sampler, the trainer, and what leaves for the Hub."""
