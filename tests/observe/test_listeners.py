"""Listeners hear everything while they want to, and one that breaks harms nobody."""

from modelmesh.observe.listeners import Listeners


def test_one_that_breaks_harms_neither_the_others_nor_who_tells() -> None:
    listeners, heard = Listeners[int]("numbers"), list[int]()

    def broken(_number: int) -> None:
        raise ValueError("broken")

    listeners.subscribe(broken)
    listeners.subscribe(heard.append)
    listeners.tell(1)
    assert heard == [1]


def test_one_may_stop_while_it_is_told_and_stop_twice() -> None:
    listeners, heard = Listeners[int]("numbers"), list[int]()

    def once(number: int) -> None:
        heard.append(number)
        stop()

    stop = listeners.subscribe(once)
    assert listeners
    listeners.tell(1)
    listeners.tell(2)
    stop()
    assert heard == [1]
    assert not listeners
