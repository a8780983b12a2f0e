"""The commands of `richsem-train`."""

from richsem_schemas.command_line import new_program, run_program
from richsem_train.commands.compare import compare
from richsem_train.commands.eval import evaluate
from richsem_train.commands.export import export
from richsem_train.commands.new import new
from richsem_train.commands.predict import predict
from richsem_train.commands.report import report
from richsem_train.commands.train import train

app = new_program("richsem-train")
app.callback(invoke_without_command=True)(train)
app.command("eval")(evaluate)
for command in (predict, export, compare, report, new):
    app.command()(command)


def run() -> None:
    """Run the program."""
    run_program(app)
