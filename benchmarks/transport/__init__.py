"""The transport beside its peers: `make bench-transport`.

contest (what is measured, what is good enough) <── bulk, dial, … (one file a subject, each with its own sides)
processes, nodes, npm (two processes each, ours and JavaScript's) <──┘          runner (in turn; medians; the table)
"""
