"""The drill's applications: a confirming publisher and an acknowledging consumer on stock client libraries.

Each runs in a process of its own, because a blocking library would disturb another one's timing, and tells the drill
what it saw as JSON lines on standard output: `[seconds, kind, number, detail]`. The clock is CLOCK_MONOTONIC, which
all processes of one machine share.

    connected, disconnected, refused   detail: where, or why
    published, confirmed, nacked       number: of the message
    delivered                          number: of the message; detail: the redelivered flag
    finished                           the application was asked to end and has

An application reconnects by the simplest honest loop: to the next broker it knows, at once, and on with the next
number. It doesn't publish again what was never confirmed; what is lost that way is what the drill wants to count.
"""
