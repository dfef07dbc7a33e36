%% Owns the program: writes its configuration, runs it as a port, starts it again when it ends, and ends it in time.
%%
%% The program runs with `--exit-with-parent`: it ends when its standard input does, so nothing is left of it when this
%% process, the application or the whole node is killed.
%%
%% A configuration that the program's `check` refuses changes nothing: the program goes on with the last good one, and
%% the status says so.
-module(lwm2m_gateway_program).
-behaviour(gen_server).

-export([start_link/0, status/0, configure/1, reload/0, emqx_config/0, socket/0, token/1]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2, format_status/2]).

%% The first pause before a restart, the longest one, and the time of service after which the first one is due again.
-define(FIRST_PAUSE, 500).
-define(LONGEST_PAUSE, 30_000).
-define(HEALTHY, 60_000).
%% Time for the program's end, in milliseconds, below the limit of the supervisor.
-define(STOP_TIME, 6_500).
%% Time for the commands `check` and `emqx-config`.
-define(COMMAND_TIME, 5_000).
%% Longest line of output that is kept, in bytes; the rest of a longer one is dropped.
-define(LONGEST_LINE, 65_536).
%% sun_path of unix(7), less the zero byte.
-define(LONGEST_SOCKET_PATH, 107).

-record(state, {
    %% The configuration as EMQX stores it.
    config = #{} :: map(),
    %% exproto or mqtt, once it is known.
    upstream = unknown :: unknown | exproto | mqtt,
    %% Whether EMQX's exproto gateway is to be configured.
    exproto = false :: boolean(),
    port = none :: none | port(),
    os_pid = none :: none | non_neg_integer(),
    phase = starting :: starting | serving | waiting,
    %% What is wrong, for people; `none` if nothing is.
    problem = none :: none | binary(),
    pause = ?FIRST_PAUSE :: pos_integer(),
    timer = none :: none | reference(),
    since :: integer(),
    restarts = 0 :: non_neg_integer(),
    line = <<>> :: binary(),
    last_message = <<>> :: binary(),
    tokens = #{} :: #{viewer | operator => binary()}
}).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Returns the state of the program: starting, serving, waiting (for a restart) or stopped, with what is wrong.
status() ->
    call(status, #{state => stopped, problem => none}).

%% Takes a configuration that was checked. Without effect while the plugin is stopped.
configure(Config) ->
    gen_server:cast(?MODULE, {configure, Config}).

%% Makes the program read its files again.
reload() ->
    call(reload, {error, stopped}).

%% Returns EMQX's side of the configuration in HOCON, as the program prints it.
emqx_config() ->
    run_command(["emqx-config", "-c", config_file()]).

%% Returns the path of the console's socket.
socket() ->
    in_folder("console.sock").

%% Returns the console's token of this role, viewer or operator.
token(Role) ->
    call({token, Role}, <<>>).

call(Request, Otherwise) ->
    try
        gen_server:call(?MODULE, Request)
    catch
        exit:_ -> Otherwise
    end.

init([]) ->
    process_flag(trap_exit, true),
    Tokens = #{viewer => new_token(), operator => new_token()},
    {ok, #state{config = stored_config(), since = now_ms(), tokens = Tokens}, {continue, start}}.

handle_continue(start, State) ->
    {noreply, start_program(State)}.

handle_call(status, _From, State) ->
    #state{phase = Phase, problem = Problem, os_pid = Pid, upstream = Upstream, restarts = Restarts, since = Since} = State,
    Status = #{
        state => Phase,
        problem => Problem,
        pid => Pid,
        upstream => Upstream,
        exproto => State#state.exproto,
        restarts => Restarts,
        seconds => (now_ms() - Since) div 1000,
        last_message => State#state.last_message
    },
    {reply, Status, State};
handle_call({token, Role}, _From, State) ->
    {reply, maps:get(Role, State#state.tokens), State};
handle_call(reload, _From, #state{port = none} = State) ->
    {reply, {error, stopped}, State};
handle_call(reload, _From, State) ->
    {reply, command(State#state.port, <<"reload\n">>), State}.

handle_cast({configure, Config}, #state{config = Config} = State) ->
    {noreply, State};
handle_cast({configure, Config}, State) ->
    {noreply, start_program(State#state{config = Config})}.

handle_info({Port, {data, {Kind, Data}}}, #state{port = Port} = State) ->
    {noreply, output(Kind, Data, State)};
handle_info({Port, {exit_status, Status}}, #state{port = Port} = State) ->
    {noreply, ended(Status, State)};
handle_info({timeout, Timer, start}, #state{timer = Timer} = State) ->
    {noreply, start_program(State#state{timer = none, restarts = State#state.restarts + 1})};
handle_info(_Late, State) ->
    {noreply, State}.

terminate(_Reason, State) ->
    stop_program(State).

%% Keeps the tokens out of crash reports.
format_status(_Reason, [_Dictionary, State]) ->
    State#state{tokens = #{}}.

%% Starts the program, or starts it anew, by the configuration. If that is refused, what runs goes on.
start_program(State) ->
    case prepare(State) of
        {ok, Program, Upstream, Exproto} ->
            stop_program(State),
            Stopped = State#state{port = none, os_pid = none, line = <<>>, timer = none},
            open(Program, Stopped#state{upstream = Upstream, exproto = Exproto});
        {error, Reason} when State#state.port =/= none ->
            logger:error(#{msg => lwm2m_gateway_configuration_refused, reason => iolist_to_binary(Reason)}),
            State#state{problem = iolist_to_binary(["the configuration is refused, the last good one is in force: ", Reason])};
        {error, Reason} ->
            retry(iolist_to_binary(Reason), State)
    end.

%% Writes the configuration and the tokens, and finds the program.
prepare(#state{config = Config, tokens = Tokens}) ->
    try
        Folder = folder(),
        ok(filelib:ensure_dir(filename:join(Folder, "x")), Folder),
        ok(file:change_mode(Folder, 8#700), Folder),
        length(socket()) =< ?LONGEST_SOCKET_PATH orelse throw(["the path of the socket is too long: ", socket()]),
        Program = executable(),
        {ok, Settings} = checked(lwm2m_gateway_config:settings(Config)),
        Upstream = upstream(maps:get(<<"upstream">>, Settings)),
        Places = #{store => file("lwm2m-gateway.redb"), socket => list_to_binary(socket()), tokens => file("tokens")},
        Toml = lwm2m_gateway_config:toml(Settings#{<<"upstream">> := atom_to_binary(Upstream)}, Places),
        write(in_folder("tokens"), token_lines(Tokens)),
        install(Program, Toml),
        {ok, Program, Upstream, Upstream =:= exproto andalso maps:get(<<"configure_exproto">>, Settings)}
    catch
        throw:Reason -> {error, Reason}
    end.

checked({ok, _} = Settings) -> Settings;
checked({error, Reason}) -> throw(Reason).

%% Puts a configuration into force that the program's own check accepts.
install(Program, Toml) ->
    New = config_file() ++ ".new",
    write(New, Toml),
    case run(Program, ["check", "-c", New]) of
        {0, _} -> ok(file:rename(New, config_file()), config_file());
        {_, Output} -> throw(last_lines(Output))
    end.

open(Program, State) ->
    Options = [{args, ["run", "--exit-with-parent", "-c", config_file()]}, exit_status, {line, 8192} | port_options()],
    try open_port({spawn_executable, Program}, Options) of
        Port ->
            Pid = os_pid(Port),
            State#state{port = Port, os_pid = Pid, phase = starting, since = now_ms()}
    catch
        error:Reason -> retry(iolist_to_binary(io_lib:format("~ts cannot be run: ~p", [Program, Reason])), State)
    end.

os_pid(Port) ->
    case erlang:port_info(Port, os_pid) of
        {os_pid, Pid} -> Pid;
        undefined -> none
    end.

output(noeol, Part, #state{line = Line} = State) when byte_size(Line) < ?LONGEST_LINE ->
    State#state{line = <<Line/binary, Part/binary>>};
output(noeol, _, State) ->
    State;
output(eol, Part, #state{line = Line} = State) ->
    Message = lwm2m_gateway_log:forward(<<Line/binary, Part/binary>>),
    said(Message, State#state{line = <<>>, last_message = Message}).

said(<<"devices are served">>, State) ->
    lwm2m_gateway_exproto:serving(State#state.exproto),
    State#state{phase = serving, problem = none};
said(_, State) ->
    State.

ended(Status, #state{since = Since} = State) ->
    Pause =
        case now_ms() - Since >= ?HEALTHY of
            true -> ?FIRST_PAUSE;
            false -> State#state.pause
        end,
    Problem = io_lib:format("the program ended with ~b (~ts): ~ts", [Status, meaning(Status), State#state.last_message]),
    retry(unicode:characters_to_binary(Problem), State#state{port = none, os_pid = none, line = <<>>, pause = Pause}).

%% Before the program says something, the status is that of the exec: an errno.
meaning(1) -> "failure";
meaning(2) -> "wrong usage, or the program is not there";
meaning(8) -> "built for another processor";
meaning(13) -> "not allowed to run";
meaning(Status) when Status > 128 -> io_lib:format("signal ~b", [Status - 128]);
meaning(_) -> "exit status".

retry(Problem, #state{pause = Pause} = State) ->
    logger:error(#{msg => lwm2m_gateway_not_running, reason => Problem, next_try_ms => Pause}),
    ok = cancel(State#state.timer),
    Timer = erlang:start_timer(Pause, self(), start),
    State#state{phase = waiting, problem = Problem, timer = Timer, pause = min(2 * Pause, ?LONGEST_PAUSE), since = now_ms()}.

cancel(none) ->
    ok;
cancel(Timer) ->
    _ = erlang:cancel_timer(Timer),
    ok.

%% Asks the program for its end and waits for it. It ends by force when its input is closed.
stop_program(#state{port = none, timer = Timer}) ->
    cancel(Timer);
stop_program(#state{port = Port} = State) ->
    _ = command(Port, <<"stop\n">>),
    wait_for_end(State, now_ms() + ?STOP_TIME).

wait_for_end(#state{port = Port} = State, End) ->
    receive
        {Port, {exit_status, _}} -> ok;
        {Port, {data, {Kind, Data}}} -> wait_for_end(output_at_end(Kind, Data, State), End)
    after max(0, End - now_ms()) ->
        logger:error(#{msg => lwm2m_gateway_did_not_end_in_time}),
        close(Port)
    end.

output_at_end(eol, Part, #state{line = Line} = State) ->
    _ = lwm2m_gateway_log:forward(<<Line/binary, Part/binary>>),
    State#state{line = <<>>};
output_at_end(noeol, Part, State) ->
    output(noeol, Part, State).

command(Port, Line) ->
    try
        port_command(Port, Line),
        ok
    catch
        error:_ -> {error, stopped}
    end.

close(Port) ->
    try
        port_close(Port)
    catch
        error:_ -> true
    end.

%% Runs a command of the program to its end.
run_command(Arguments) ->
    try
        run(executable(), Arguments)
    catch
        throw:Reason -> {1, iolist_to_binary(Reason)}
    end.

run(Program, Arguments) ->
    try open_port({spawn_executable, Program}, [{args, Arguments}, exit_status | port_options()]) of
        Port -> collect(Port, [], now_ms() + ?COMMAND_TIME)
    catch
        error:Reason -> throw(io_lib:format("~ts cannot be run: ~p", [Program, Reason]))
    end.

collect(Port, Output, End) ->
    receive
        {Port, {data, Data}} -> collect(Port, [Output, Data], End);
        {Port, {exit_status, Status}} -> {Status, iolist_to_binary(Output)}
    after max(0, End - now_ms()) ->
        close(Port),
        {1, <<"no answer in time">>}
    end.

port_options() ->
    [binary, use_stdio, stderr_to_stdout, hide, {cd, folder()}, {env, environment()}].

%% EMQX's environment has its cookie and passwords: the program gets what it needs of it, and its own variables.
environment() ->
    Names = [Name || Variable <- os:getenv(), Name <- [hd(string:split(Variable, "="))], Name =/= ""],
    [{Name, false} || Name <- Names, not is_handed_down(Name)].

is_handed_down("PATH") -> true;
is_handed_down("HOME") -> true;
is_handed_down("TZ") -> true;
is_handed_down("LANG") -> true;
is_handed_down("SSL_CERT_" ++ _) -> true;
is_handed_down("LWM2M_GATEWAY" ++ _) -> true;
is_handed_down(_) -> false.

%% Returns the path of the program. EMQX unpacks packages without the execute bit; where it cannot be set, because the
%% files belong to somebody else or lie on a volume without programs, a copy beside the store is used.
executable() ->
    Packed = filename:absname(filename:join([code:priv_dir(lwm2m_gateway), "bin", architecture(), "lwm2m-gateway"])),
    filelib:is_regular(Packed) orelse throw(["the package has no program for this machine: ", Packed]),
    case is_executable(Packed) orelse file:change_mode(Packed, 8#755) =:= ok andalso is_executable(Packed) of
        true -> Packed;
        false -> copy(Packed)
    end.

copy(Packed) ->
    Copy = in_folder("lwm2m-gateway"),
    Same = checksum(Packed) =:= checksum(Copy),
    Same orelse ok(copy_file(Packed, Copy ++ ".new"), Copy),
    Same orelse ok(file:change_mode(Copy ++ ".new", 8#755), Copy),
    Same orelse ok(file:rename(Copy ++ ".new", Copy), Copy),
    is_executable(Copy) orelse throw(["neither ", Packed, " nor ", Copy, " can be run"]),
    Copy.

copy_file(From, To) ->
    case file:copy(From, To) of
        {ok, _} -> ok;
        Error -> Error
    end.

checksum(File) ->
    case file:read_file(File) of
        {ok, Bytes} -> erlang:md5(Bytes);
        {error, _} -> none
    end.

%% Tries it: the bit says nothing of a volume that is mounted noexec, or of who may run it.
is_executable(File) ->
    try run(File, ["--version"]) of
        {0, _} -> true;
        {_, _} -> false
    catch
        throw:_ -> false
    end.

architecture() ->
    case string:prefix(erlang:system_info(system_architecture), "aarch64") of
        nomatch -> "amd64";
        _ -> "arm64"
    end.

%% EMQX without exproto, 6.3 and newer, has the devices as MQTT clients. At boot plugins start before its registry of
%% gateways; the application says whether there is one.
upstream(Setting) ->
    case binary_to_list(Setting) of
        "exproto" -> exproto;
        "mqtt" -> mqtt;
        "auto" -> auto()
    end.

auto() ->
    case has_exproto() of
        true -> exproto;
        false -> mqtt
    end.

has_exproto() ->
    try
        lists:keymember(exproto, 1, emqx_gateway_registry:list())
    catch
        _:_ -> code:where_is_file("emqx_gateway_exproto.app") =/= non_existing
    end.

%% `get_config/1` has the configuration itself from EMQX 5.9 on. A node that has none yet has the defaults.
stored_config() ->
    {ok, Version} = application:get_key(lwm2m_gateway, vsn),
    try emqx_plugins:get_config(list_to_binary(["lwm2m_gateway-", Version])) of
        {ok, Config} when is_map(Config) -> Config;
        Config when is_map(Config) -> Config;
        _ -> #{}
    catch
        _:_ -> #{}
    end.

token_lines(Tokens) ->
    Lines = maps:fold(fun(Role, Token, Lines) -> [token_line(Role, Token) | Lines] end, [], Tokens),
    iolist_to_binary(Lines).

token_line(Role, Token) ->
    io_lib:format("emqx-~s ~s ~ts~n", [Role, Role, hex(crypto:hash(sha256, Token))]).

%% 256 random bits, in the form that `lwm2m-gateway token` has.
new_token() ->
    Text = base64:encode(crypto:strong_rand_bytes(32)),
    Trimmed = binary:replace(Text, <<"=">>, <<>>, [global]),
    Url = binary:replace(binary:replace(Trimmed, <<"+">>, <<"-">>, [global]), <<"/">>, <<"_">>, [global]),
    iolist_to_binary(["lgw_", Url]).

hex(Bytes) ->
    [io_lib:format("~2.16.0b", [Byte]) || Byte <- binary_to_list(Bytes)].

last_lines(Output) ->
    Lines = [Line || Line <- binary:split(Output, <<"\n">>, [global]), Line =/= <<>>],
    lists:join("; ", lists:nthtail(max(0, length(Lines) - 5), Lines)).

%% The file is never open to others, not even for a moment.
write(File, Content) ->
    ok(file:write_file(File ++ ".part", <<>>), File),
    ok(file:change_mode(File ++ ".part", 8#600), File),
    ok(file:write_file(File ++ ".part", Content), File),
    ok(file:rename(File ++ ".part", File), File).

ok(ok, _) -> ok;
ok({error, Reason}, Path) -> throw([Path, ": ", file:format_error(Reason)]).

config_file() -> in_folder("gateway.toml").

file(Name) -> unicode:characters_to_binary(in_folder(Name)).

in_folder(Name) -> filename:join(folder(), Name).

%% EMQX's working directory may be what its folders are relative to, and the program has another one.
folder() ->
    filename:absname(filename:join([emqx:data_dir(), "plugins", "lwm2m_gateway", "program"])).

now_ms() -> erlang:monotonic_time(millisecond).
