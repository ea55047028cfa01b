"""What the tests of the ledger in memory and on disk share: files that move, and runs that end or repeat."""

from atomvision_ml.experiments.ledger import InboxRules, Stamp

RULES = InboxRules(minimum_age_s=60, claim_s=600, batch_size=3, maximum_batches=2, maximum_new=4, partner_wait_s=300)


class InboxRuns:
    """A folder of texts and the runs under way; what a run of a batch does, `run(batch)`, is the subclass's."""

    def __init__(self, now):
        self.files, self.runs, self.ended, self.now, self.moves = {}, [], [], now, 0

    def put(self, place, content):
        self.moves += 1
        self.files[place] = (Stamp(len(content), str(self.moves)), content)

    def move(self, place, target):
        if place in self.files:
            self.files[target] = self.files.pop(place)

    def remove(self, place):
        self.files.pop(place, None)

    def listing(self):
        return {place: stamp for place, (stamp, _) in self.files.items()}

    def end(self, number):
        """A run ends as it should."""
        if self.runs:
            self.ended.append(self.runs.pop(number % len(self.runs)))
            self.run(self.ended[-1])

    def repeat(self, number):
        """A run that had ended reports once more."""
        if self.ended:
            self.run(self.ended[number % len(self.ended)])
