import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from supervisor.options import ServerOptions

from lakehouse.settings import Settings
from lakehouse.stack import supervisor

AWKWARD = 'it\'s 100% "quoted" ;not #a comment\nsecond line'


def parsed(settings: Settings) -> ServerOptions:
    """The configuration as supervisord itself reads it."""
    own = supervisor.folder(settings)
    (own / "programs").mkdir(parents=True)
    (settings.home / "logs").mkdir()
    (own / "supervisord.conf").write_text(supervisor.render(settings))
    program = supervisor.render_program(settings, "kafka", "true", 7, 10)
    (own / "programs" / "kafka.conf").write_text(program)
    options = ServerOptions()
    options.realize(["-c", str(own / "supervisord.conf")])
    options.process_config(do_usage=False)
    return options


@pytest.mark.parametrize("home", ["home", "a home"])
def test_supervisord_reads_what_we_write(tmp_path: Path, home: str) -> None:
    settings = Settings(home=tmp_path / home)
    (program,) = parsed(settings).process_group_configs[0].process_configs
    assert program.name == "kafka"
    assert program.startretries == 7
    assert not program.autostart
    assert program.stopwaitsecs == supervisor.STOP_S
    assert program.stdout_logfile == str(settings.home / "logs" / "kafka.log")
    assert program.stdout_logfile_maxbytes * (1 + program.stdout_logfile_backups) < 50 * 2**20
    assert program.command == f'/bin/sh "{tmp_path / home}/supervisor/programs/kafka.sh"'


def test_the_socket_is_in_home_unless_its_path_is_too_long(tmp_path: Path) -> None:
    def socket(home: Path) -> str:
        return parsed(Settings(home=home)).configroot.supervisord.server_configs[0]["file"]

    with TemporaryDirectory(dir="/tmp") as home:  # tmp_path may be too long by itself
        assert socket(Path(home)) == f"{home}/supervisor/socket"
    assert len(socket(tmp_path / ("x" * 100))) < 100


def test_a_program_gets_arguments_and_environment_exactly(tmp_path: Path) -> None:
    command = ["printf", "%s|%s|%s|%s", AWKWARD, "", "$HOME `id`"]
    env = {"SECRET": AWKWARD}
    command = ["sh", "-c", '"$0" "$@" "$SECRET"', *command]
    script = supervisor.render_script(Settings(home=tmp_path), command, env, tmp_path)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{AWKWARD}||$HOME `id`|{AWKWARD}"


def test_only_deaths_since_the_last_start_count(tmp_path: Path) -> None:
    log = tmp_path / "supervisord.log"
    log.write_text(
        "t WARN exited: kafka (terminated by SIGKILL; not expected)\n"
        "t INFO supervisord started with pid 1\n"
        "t WARN exited: kafka (terminated by SIGKILL; not expected)\n"
        "t WARN stopped: kafka (exit status 143)\n"
        "t INFO exited: once (exit status 0; expected)\n"
    )
    assert supervisor.deaths(log) == {"kafka": 1, "once": 1}
