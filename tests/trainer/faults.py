"""Numbers that go wrong, planted by the number of a batch."""

import math


class PlantedData:
    """A run's data, which notes the number of the batch that it gave last."""

    def __init__(self, data):
        self.data, self.number, self.numbers = data, None, []

    def batch(self, number):
        self.number = number
        self.numbers.append(number)
        return self.data.batch(number)

    def __getattr__(self, name):
        return getattr(self.data, name)


def plant(trainer, batches, factor=math.nan, in_gradient=False, rank=None):
    """Have the loss of some batches, or its gradient alone, multiplied by `factor`, on one rank or on all."""
    trainer.data = data = PlantedData(trainer.data)
    loss = trainer.model.loss

    def planted(**part):
        total, count = loss(**part)
        if data.number in batches and rank in (None, trainer.parallel.rank):
            if in_gradient:
                total.register_hook(lambda gradient: gradient * factor)
            else:
                total = total * factor
        return total, count

    trainer.model.loss = planted
    return data
