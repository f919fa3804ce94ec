"""The drill's applications: senders and receivers on stock client libraries.

Each runs in a process of its own, because a blocking library would disturb another one's timing, and tells the drill
what it saw as JSON lines on standard output: `[seconds, kind, number, detail]`. The clock is CLOCK_MONOTONIC, which
all processes of one machine share.

    connected, disconnected, refused   detail: where, or why
    published, confirmed, nacked       number: of the message; for a request, confirmed is its answer
    rolled_back, unknown               number: of a message whose transaction ended so, by an error of its channel
    unanswered                         number: of a request that was given up, and is now asked again
    delivered                          number: of the message; detail: the redelivered flag
    finished                           the application was asked to end and has

A library's module has a function for each role that it plays:

    publish          persistent messages with confirms          consume   all messages, each acknowledged
    publish_plain    the same without confirms                  get       the same by basic.get
    commit           in transactions of ten                     answer    requests: a reply, then the acknowledgement
    ask, ask_direct  requests, one after the other, with an exclusive reply queue, or by direct reply-to

An application reconnects by the simplest honest loop: to the next broker it knows, at once, and on with the next
number. It doesn't publish again what was never confirmed; what is lost that way is what the drill wants to count.
"""
