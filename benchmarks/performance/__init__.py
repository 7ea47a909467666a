"""`docs/performance.md` and the figures in README.md, made of results that are kept (`scripts/bench report`).

Results stand in `docs/performance/`, as the bench wrote them. A page has parts that are made of them, each between two
comments with its name, and text around them that people keep. `parts.py` names the parts; each is made in the module of its
kind, from its results and nothing else. `pages.py` puts them into their pages, and says where a page is stale."""
