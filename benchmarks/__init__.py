"""What Sidehop is worth, measured beside a direct connection and HAProxy.

drill/       Does the client notice when its broker dies? `python -m benchmarks.drill`
throughput/  What does the way through the proxy cost? `python -m benchmarks.throughput`
footprint.py Memory and start-up time. `python -m benchmarks.footprint`
curves.py    How does that grow with sessions, channels, unsettled publishes, nodes? `python -m benchmarks.curves`
flames.py    Where does the processor time go? `python -m benchmarks.flames`
charts.py    What was measured, drawn as SVG. `python -m benchmarks.charts FOLDER`
rivals.py    HAProxy and nginx: are they here, and how are they set up?
stand.py     The processes they run against: brokers, proxies. Started here, ended here.
"""
