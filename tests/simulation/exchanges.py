"""Which queues a message goes to: exchanges and what is bound to them, by exact keys."""

from __future__ import annotations

# Source, key, whether the destination is an exchange, destination.
Binding = tuple[bytes, bytes, bool, bytes]
PREDEFINED = (b"", b"amq.direct", b"amq.fanout", b"amq.headers", b"amq.topic")


class Exchanges:
    """All exchanges of a cluster, and whether each goes with its last binding. They outlive any one node."""

    def __init__(self) -> None:
        self.auto_delete: dict[bytes, bool] = dict.fromkeys(PREDEFINED, False)
        self.bindings: set[Binding] = set()

    def declare(self, name: bytes, *, auto_delete: bool) -> None:
        """It is there, as it was if it was."""
        self.auto_delete.setdefault(name, auto_delete)

    def delete(self, name: bytes) -> None:
        """It is gone, and every binding from it and to it."""
        self.auto_delete.pop(name, None)
        self.bindings = {each for each in self.bindings if each[0] != name}
        self._unbind_from(name, is_exchange=True)

    def bind(self, binding: Binding) -> bool:
        """False if one of the exchanges is not there."""
        source, _, is_exchange, destination = binding
        if source not in self.auto_delete or (is_exchange and destination not in self.auto_delete):
            return False
        self.bindings.add(binding)
        return True

    def unbind(self, binding: Binding) -> None:
        """An auto-delete exchange goes with the last binding that has it as its source."""
        if binding in self.bindings:
            self.bindings.remove(binding)
            self._review(binding[0])

    def queue_gone(self, name: bytes) -> None:
        """Its bindings go with it."""
        self._unbind_from(name, is_exchange=False)

    def routes(self, exchange: bytes, key: bytes) -> list[bytes]:
        """The names of queues, each once; they need not exist."""
        if not exchange:
            return [key]
        seen, reached, queues = {exchange}, [exchange], set()
        for source in reached:
            for _, _, is_exchange, destination in (each for each in self.bindings if each[:2] == (source, key)):
                if not is_exchange:
                    queues.add(destination)
                elif destination not in seen:
                    seen.add(destination)
                    reached.append(destination)
        return sorted(queues)

    def _unbind_from(self, name: bytes, *, is_exchange: bool) -> None:
        for each in sorted(self.bindings):
            if each[2:] == (is_exchange, name):
                self.unbind(each)

    def _review(self, name: bytes) -> None:
        if self.auto_delete.get(name) and not any(each[0] == name for each in self.bindings):
            self.delete(name)
