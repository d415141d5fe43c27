"""Batches of a trainer as its training loop gets them."""


def batch_of(trainer, positions) -> dict:
    """The batch of the programs at these positions of the buffer."""
    trainer.train_dataset.prepare(positions)
    return dict(trainer.get_train_dataloader().collate_fn([trainer.train_dataset[i] for i in positions]))
