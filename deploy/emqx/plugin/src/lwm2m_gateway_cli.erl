%% `emqx ctl lwm2m`: what operators ask of the gateway on this node, through its console.
-module(lwm2m_gateway_cli).

-export([cmd/1, cmd_audit_args/1]).

%% Longest time in seconds that a command waits for its device; it goes on beyond that.
-define(WAIT, 30).

cmd(["status"]) ->
    status(lwm2m_gateway_program:status(), lwm2m_gateway_exproto:status());
cmd(["devices"]) ->
    devices("", 0);
cmd(["devices", Prefix]) ->
    devices(["&prefix=", lwm2m_gateway_http:segment(Prefix)], 0);
cmd(["show", Endpoint]) ->
    print(ask([device(Endpoint)]), fun print_value/1);
cmd(["read", Endpoint, Path]) ->
    command(Endpoint, <<"read">>, #{<<"path">> => text(Path)});
cmd(["discover", Endpoint, Path]) ->
    command(Endpoint, <<"discover">>, #{<<"path">> => text(Path)});
cmd(["write", Endpoint, Path, Value]) ->
    command(Endpoint, <<"write">>, #{<<"path">> => text(Path), <<"value">> => text(Value)});
cmd(["write", Endpoint, Path, Value, Type]) ->
    command(Endpoint, <<"write">>, #{<<"path">> => text(Path), <<"value">> => text(Value), <<"type">> => text(Type)});
cmd(["execute", Endpoint, Path]) ->
    command(Endpoint, <<"execute">>, #{<<"path">> => text(Path), <<"args">> => <<>>});
cmd(["execute", Endpoint, Path, Arguments]) ->
    command(Endpoint, <<"execute">>, #{<<"path">> => text(Path), <<"args">> => text(Arguments)});
cmd(["observe", Endpoint, Path]) ->
    command(Endpoint, <<"observe">>, #{<<"path">> => text(Path)});
cmd(["cancel-observe", Endpoint, Path]) ->
    command(Endpoint, <<"cancel-observe">>, #{<<"path">> => text(Path)});
cmd(["kick", Endpoint]) ->
    print(request(delete, [device(Endpoint)], <<>>, 5), fun(_) -> emqx_ctl:print("ok~n", []) end);
cmd(["reload"]) ->
    case lwm2m_gateway_program:reload() of
        ok -> emqx_ctl:print("ok: the log tells what has changed~n", []);
        {error, stopped} -> failed("the gateway does not run on this node")
    end;
cmd(_) ->
    emqx_ctl:usage([
        {"lwm2m status", "State of the gateway on this node"},
        {"lwm2m devices [PREFIX]", "List the registered devices"},
        {"lwm2m show ENDPOINT", "Show one device: registration, queue, observations"},
        {"lwm2m read ENDPOINT PATH", "Read an object, an instance or a resource"},
        {"lwm2m discover ENDPOINT PATH", "List resources and attributes"},
        {"lwm2m write ENDPOINT PATH VALUE [TYPE]", "Write a resource"},
        {"lwm2m execute ENDPOINT PATH [ARGUMENTS]", "Execute a resource"},
        {"lwm2m observe ENDPOINT PATH", "Observe; the notifications go to up/notify"},
        {"lwm2m cancel-observe ENDPOINT PATH", "End an observation"},
        {"lwm2m kick ENDPOINT", "End a registration; the device has to register again"},
        {"lwm2m reload", "Read the files of the gateway again"}
    ]).

%% EMQX 6 writes these arguments into its audit log: never a value that is written, nor the arguments of an execute.
cmd_audit_args(["write", Endpoint, Path | _]) -> ["write", Endpoint, Path, "******"];
cmd_audit_args(["execute", Endpoint, Path | _]) -> ["execute", Endpoint, Path, "******"];
cmd_audit_args(Arguments) -> Arguments.

status(#{state := stopped}, _) ->
    failed("the plugin does not run on this node");
status(Status, Exproto) ->
    #{state := State, pid := Pid, upstream := Upstream, seconds := Seconds, restarts := Restarts, problem := Problem} = Status,
    emqx_ctl:print("state        ~s for ~b s, process ~p, restarts ~b~n", [State, Seconds, Pid, Restarts]),
    emqx_ctl:print("upstream     ~s~n", [upstream(Upstream, Exproto)]),
    Problem =:= none orelse emqx_ctl:print("problem      ~ts~n", [Problem]),
    overview(State).

upstream(exproto, configured) -> "exproto; EMQX's gateway is configured";
upstream(exproto, off) -> "exproto; EMQX's gateway is left as it is";
upstream(exproto, {failed, Reason}) -> ["exproto; EMQX's gateway is not configured yet: ", Reason];
upstream(mqtt, _) -> "mqtt: each device is an MQTT client";
upstream(unknown, _) -> "not known yet".

overview(serving) ->
    case ask(["/overview"]) of
        {ok, _, Overview} ->
            Conditions = maps:get(<<"conditions">>, Overview, #{}),
            Devices = maps:get(<<"devices">>, Overview, #{}),
            emqx_ctl:print("devices      ~ts~n", [flat(Devices)]),
            maps:foreach(
                fun(Name, #{<<"state">> := State, <<"detail">> := Detail}) ->
                    emqx_ctl:print("~-12ts ~ts: ~ts~n", [Name, State, Detail])
                end,
                Conditions
            );
        {error, Reason} ->
            failed(Reason)
    end;
overview(_) ->
    ok.

devices(Filter, Count) ->
    case ask(["/devices?limit=1000", Filter]) of
        {ok, _, #{<<"devices">> := Devices, <<"next">> := Next}} ->
            Count > 0 orelse row([<<"NAME">>, <<"STATE">>, <<"LAST HEARD">>, <<"ADDRESS">>, <<"BINDING">>, <<"WAITING">>]),
            lists:foreach(fun(Device) -> row([maps:get(Key, Device, <<>>) || Key <- columns()]) end, Devices),
            more(Next, Filter, Count + length(Devices));
        {error, Reason} ->
            failed(Reason)
    end.

columns() -> [<<"endpoint">>, <<"state">>, <<"lastHeard">>, <<"address">>, <<"binding">>, <<"waiting">>].

more(null, _, Count) ->
    emqx_ctl:print("~b devices~n", [Count]);
more(Next, Filter, Count) ->
    devices([without_cursor(Filter), "&cursor=", lwm2m_gateway_http:segment(Next)], Count).

without_cursor(Filter) ->
    hd(string:split(Filter, "&cursor=")).

row([Name, State, LastHeard, Address, Binding, Waiting]) ->
    emqx_ctl:print("~-32ts ~-7ts ~-24ts ~-30ts ~-8ts ~ts~n", [flat(Value) || Value <- [Name, State, LastHeard, Address, Binding, Waiting]]).

command(Endpoint, Type, Data) ->
    Body = emqx_utils_json:encode(#{<<"msgType">> => Type, <<"data">> => Data}),
    Path = [device(Endpoint), "/commands?wait=", integer_to_list(?WAIT)],
    print(request(post, Path, Body, ?WAIT + 5), fun print_outcome/1).

print_outcome(#{<<"outcome">> := <<"answered">>, <<"answer">> := #{<<"data">> := Data}}) ->
    emqx_ctl:print("~ts ~ts~n", [maps:get(<<"code">>, Data, <<>>), maps:get(<<"codeMsg">>, Data, <<>>)]),
    lists:foreach(fun print_entry/1, content(maps:get(<<"content">>, Data, [])));
print_outcome(#{<<"state">> := <<"pending">>} = Pending) ->
    Device = maps:get(<<"device">>, Pending, <<"busy">>),
    emqx_ctl:print("the command waits: the device is ~ts; its answer will be published~n", [Device]);
print_outcome(#{<<"outcome">> := Outcome}) ->
    failed(["no answer: ", Outcome]);
print_outcome(Other) ->
    print_value(Other).

content(Entries) when is_list(Entries) -> Entries;
content(Entry) -> [Entry].

print_entry(#{<<"path">> := Path, <<"value">> := Value}) -> emqx_ctl:print("~ts = ~ts~n", [Path, flat(Value)]);
print_entry(Entry) -> emqx_ctl:print("~ts~n", [flat(Entry)]).

print_value(Value) -> emqx_ctl:print("~ts~n", [flat(Value)]).

print({ok, _, Value}, Print) -> Print(Value), ok;
print({error, Reason}, _) -> failed(Reason).

flat(Text) when is_binary(Text) -> Text;
flat(Value) -> emqx_utils_json:encode(Value).

device(Endpoint) -> ["/devices/", lwm2m_gateway_http:segment(Endpoint)].

ask(Path) -> request(get, Path, <<>>, 5).

request(Method, Path, Body, Seconds) ->
    case lwm2m_gateway_http:request(Method, ["/api/v1", Path], socket, Body, Seconds * 1000) of
        {ok, Status, _, Answer} when Status < 300 -> {ok, Status, json(Answer)};
        {ok, Status, _, Answer} -> {error, explained(Status, json(Answer))};
        {error, Reason} -> {error, Reason}
    end.

explained(_, #{<<"title">> := Title} = Problem) ->
    case maps:get(<<"detail">>, Problem, <<>>) of
        <<>> -> Title;
        Detail -> [Title, ": ", Detail]
    end;
explained(Status, _) ->
    io_lib:format("the gateway answers ~b", [Status]).

json(<<>>) -> #{};
json(Body) -> emqx_utils_json:decode(Body, [return_maps]).

text(Argument) -> unicode:characters_to_binary(Argument).

failed(Reason) ->
    emqx_ctl:print("~ts~n", [Reason]),
    {error, unicode:characters_to_binary(Reason)}.
