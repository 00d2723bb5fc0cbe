"""What a showtime is, in the fewest lines: a cap, and seats each of which is one ticket's."""


class Showtime:
    """Replays the changes of one showtime in the order of their versions, from empty on."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tickets: set[str] = set()
        self.counts = [0]  # the seats taken at each version, from 0 on

    @property
    def version(self) -> int:
        """That of the last change."""
        return len(self.counts) - 1

    def change(self, version: int, ticket_id: str, *, enters: bool) -> str:
        """Let a ticket in or out; what is wrong with that, or nothing."""
        wrong = ""
        if enters == (ticket_id in self.tickets):
            wrong = f"{ticket_id} takes a second seat" if enters else f"{ticket_id} leaves a seat it does not have"
        if enters and len(self.tickets) >= self.capacity:
            wrong = f"{ticket_id} takes seat {len(self.tickets) + 1} of {self.capacity}"
        if version <= self.version:
            return f"version {version} is given twice, the second time to {ticket_id}"
        if version > self.version + 1:
            wrong = f"versions {self.version + 1} to {version - 1} are of changes that nobody was told of"
        (self.tickets.add if enters else self.tickets.discard)(ticket_id)
        self.counts += [self.counts[-1]] * (version - self.version - 1) + [len(self.tickets)]
        return wrong
