"""sseclient. The module has the name of sseclient-py's package, which would be imported instead."""

import importlib.machinery
import importlib.util
import sys
import sysconfig

from tell import note, tell

path = f"{sysconfig.get_paths()['purelib']}/sseclient.py"
loader = importlib.machinery.SourceFileLoader("sseclient_0", path)
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("sseclient_0", loader))
loader.exec_module(module)
# It prints why it reconnects.
module.print = note

for message in module.SSEClient(sys.argv[1]):
    tell(message.event, message.data, message.id)
