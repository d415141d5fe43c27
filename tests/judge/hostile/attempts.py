"""Parts of scripts that try one thing after another in a process of their own and say what came of each."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]

#: Opens a script: the judge without the package's __init__ files, as in a worker, so that any interpreter will do.
BARE_JUDGE = f"""
import sys, types
sys.path.insert(0, {str(ROOT)!r})
for name in ("trl_pper", "trl_pper.judge"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(ROOT)!r} + "/" + name.replace(".", "/")]
"""

#: Ends a script: prints "done", an error number or an exception for each of `attempts`, a dict of code by name.
TRY_EACH = """
heard = {}
for name, code in attempts.items():
    try:
        exec(code, globals())
        heard[name] = "done"
    except OSError as error:
        heard[name] = error.errno
    except BaseException as error:
        heard[name] = repr(error)
print(json.dumps(heard))
"""
