"""Write a self-contained HTML page about a buffer and the run that filled it.

- `history`: find the buffer and the log of a run, and read the log round by round
- `content`: read a buffer once into arrays, and compute the numbers of the report
- `groups`: compute the scores of groups of programs, and find the slowest tasks
- `near_misses`: pair failed programs with similar passing programs, and compare them line by line
- `programs`: choose the programs shown in full, and pack them into the page
- `chart`: draw a chart with matplotlib, and convert it to SVG in the page's colours
- `charts`: draw the charts of the report
- `page`: write the page from its template, with style and script, in the folder `templates`
"""
