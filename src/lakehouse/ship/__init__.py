"""What Filebeat and Metricbeat 7.17 send, from where neither can be had: ``logs`` of files, ``metrics`` of the machine.

Both write the documents of the Beats' own fields, with ``agent.type`` as theirs; ``agent.version`` is left out.
"""
