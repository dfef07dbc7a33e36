%% Plays the package against a stand-in for EMQX, with the real program: install, start, crashes, configurations, the
%% page, stop, upgrade. EMQX unpacks packages in memory and writes the files without the execute bit; so does this.
%%
%% Usage: erl -noshell -pa STANDINS -run plugin_tests main PACKAGE FOLDER
-module(plugin_tests).

-export([main/1]).

-define(PATIENCE, 20_000).
-define(APP, lwm2m_gateway).

main([Package, Folder]) ->
    logger:set_primary_config(level, critical),
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(crypto),
    standin:new(),
    Tests = [
        {"unpacked without the execute bit, with all that EMQX asks of a package", fun installed/1},
        {"the form's fields have the defaults of the plugin", fun fields_agree/1},
        {"the configuration becomes TOML that the program takes", fun toml/1},
        {"started at once, serving soon, exproto configured when the handler listens", fun started/1},
        {"nothing of EMQX's environment reaches the program but what it needs", fun environment/1},
        {"emqx ctl lwm2m", fun ctl/1},
        {"each command of the documentation is one", fun documented/1},
        {"the page, and the console's API behind it", fun page/1},
        {"a program that is killed runs again", fun program_killed/1},
        {"an owner that is killed leaves no program, and the next one runs", fun owner_killed/1},
        {"a configuration that is wrong changes nothing and is told", fun wrong_configuration/1},
        {"a configuration that is right comes into force", fun right_configuration/1},
        {"an exproto gateway that differs is changed once; what is not ours stays", fun exproto_changed/1},
        {"an exproto gateway that cannot be configured is tried again", fun exproto_tried_again/1},
        {"stopped in time, nothing left; started again", fun stopped/1},
        {"a program that does not end is given up in time, and ends when its input does", fun stuck/1},
        {"an EMQX without exproto has the devices by MQTT", fun without_exproto/1},
        {"a newer version finds the store of the older one", fun upgraded/1}
    ],
    Context = #{package => Package, folder => Folder, plugins => filename:join(Folder, "plugins")},
    standin:put(data_dir, filename:join(Folder, "data")),
    standin:put(plugin_config, {ok, config(#{})}),
    Failed = [Name || {Name, Test} <- Tests, not passes(Name, Test, Context)],
    application:stop(?APP),
    halt(length(Failed)).

passes(Name, Test, Context) ->
    try Test(Context) of
        _ -> io:format("ok      ~ts~n", [Name]), true
    catch
        Class:Reason:Stack ->
            io:format("FAILED  ~ts~n  ~p: ~p~n  ~p~n", [Name, Class, Reason, Stack]),
            false
    end.

installed(#{package := Package, plugins := Plugins}) ->
    {ok, Files} = erl_tar:extract(Package, [compressed, memory]),
    [begin
        Place = filename:join(Plugins, Name),
        ok = filelib:ensure_dir(Place),
        ok = file:write_file(Place, Bytes)
    end || {Name, Bytes} <- Files],
    NameVsn = filename:basename(Package, ".tar.gz"),
    {ok, Text} = file:read_file(filename:join([Plugins, NameVsn, "release.json"])),
    #{<<"name">> := <<"lwm2m_gateway">>, <<"rel_vsn">> := Vsn, <<"rel_apps">> := [NameBinary], <<"description">> := _,
      <<"with_config_schema">> := true, <<"index">> := <<"/ui">>} = jiffy:decode(Text, [return_maps]),
    NameVsn = binary_to_list(NameBinary),
    NameVsn = "lwm2m_gateway-" ++ binary_to_list(Vsn),
    App = filename:join([Plugins, NameVsn, NameVsn]),
    true = filelib:is_regular(filename:join([Plugins, NameVsn, "README.md"])),
    true = code:add_patha(filename:join(App, "ebin")),
    ok = application:load(?APP),
    {ok, VsnText} = application:get_key(?APP, vsn),
    VsnText = binary_to_list(Vsn),
    {ok, Modules} = application:get_key(?APP, modules),
    Beams = [list_to_atom(filename:basename(Beam, ".beam")) || Beam <- filelib:wildcard(filename:join([App, "ebin", "*.beam"]))],
    [] = Modules -- Beams,
    [] = Beams -- Modules,
    %% EMQX calls it at the installation, while the plugin does not run.
    ok = lwm2m_gateway_app:on_config_changed(#{}, config(#{})),
    {error, _} = lwm2m_gateway_app:on_health_check(#{}).

fields_agree(_) ->
    Priv = code:priv_dir(?APP),
    {ok, Schema} = file:read_file(filename:join(Priv, "config_schema.avsc")),
    #{<<"type">> := <<"record">>, <<"fields">> := Fields} = jiffy:decode(Schema, [return_maps]),
    Ours = [{Name, Default} || {Name, _, Default} <- lwm2m_gateway_config:fields()],
    Ours = [{Name, Default} || #{<<"name">> := Name, <<"default">> := Default} <- Fields],
    {ok, Texts} = file:read_file(filename:join(Priv, "config_i18n.json")),
    I18n = jiffy:decode(Texts, [return_maps]),
    [#{<<"en">> := _, <<"zh">> := _} = maps:get(Key, I18n) ||
        #{<<"$ui">> := #{<<"label">> := Label, <<"description">> := Description}} <- Fields,
        Key <- [string:trim(Label, leading, "$"), string:trim(Description, leading, "$")]],
    {ok, Hocon} = file:read_file(filename:join(Priv, "config.hocon")),
    {ok, Defaults} = hocon:binary(Hocon, #{format => map}),
    Defaults = maps:from_list(Ours).

toml(_) ->
    Extra = <<"[limits] # ours are added here\r\ncommand_size = \"1MB\"\n\n[listeners.udp.second]\nbind = \"127.0.0.1:0\"\n">>,
    {ok, Settings} = lwm2m_gateway_config:settings(#{<<"extra_toml">> => Extra, <<"psk_file">> => <<"/a \"b\"\\c"/utf8>>}),
    Places = #{store => <<"s">>, socket => <<"c">>, tokens => <<"t">>},
    Toml = lwm2m_gateway_config:toml(Settings#{<<"upstream">> := <<"mqtt">>}, Places),
    contains("[limits] # ours are added here\ndevices = 100000\ncommand_size", Toml),
    contains("dtls.psk_file = \"/a \\\"b\\\"\\\\c\"", Toml),
    contains("upstream.mqtt.brokers = [\"127.0.0.1:1883\"]", Toml),
    {error, <<"max_devices: expected a whole number above 0">>} =
        lwm2m_gateway_config:settings(#{<<"max_devices">> => 0}),
    {error, <<"upstream: expected one of auto, exproto, mqtt">>} =
        lwm2m_gateway_config:settings(#{<<"upstream">> => <<"coap">>}).

started(_) ->
    {Time, ok} = timer:tc(fun() -> application:start(?APP) end),
    true = Time < 5_000_000,
    #{pid := Pid, upstream := exproto} = until_serving(),
    true = is_running(Pid),
    ok = lwm2m_gateway_app:on_health_check(#{}),
    until(fun() -> lwm2m_gateway_exproto:status() =:= configured end),
    [{<<"exproto">>, Loaded, HandlerListens}] = standin:calls(load_gateway),
    true = HandlerListens,
    #{<<"server">> := #{<<"bind">> := <<"127.0.0.1:29100">>}, <<"enable">> := true} = Loaded,
    [#{<<"name">> := <<"lwm2m">>, <<"type">> := <<"tcp">>, <<"bind">> := <<"127.0.0.1:27993">>}] =
        maps:get(<<"listeners">>, Loaded).

environment(_) ->
    #{pid := Pid} = until_serving(),
    {ok, Environment} = file:read_file(["/proc/", integer_to_list(Pid), "/environ"]),
    nomatch = binary:match(Environment, <<"EMQX_NODE__COOKIE">>),
    contains("LWM2M_GATEWAY__LIFETIME_MIN=2s", Environment),
    contains("PATH=", Environment).

ctl(_) ->
    {ok, Status} = emqx_ctl:run(["status"]),
    contains("state        serving", Status),
    contains("descriptors  up: ", Status),
    contains("EMQX's gateway is configured", Status),
    {ok, Devices} = emqx_ctl:run(["devices"]),
    contains("0 devices", Devices),
    {{error, _}, Shown} = emqx_ctl:run(["show", "nobody/at all"]),
    contains("not registered", Shown),
    {ok, Usage} = emqx_ctl:run(usage),
    contains("lwm2m read ENDPOINT PATH", Usage),
    {ok, Usage} = emqx_ctl:run(["no", "such", "command"]),
    {ok, Reload} = emqx_ctl:run(["reload"]),
    contains("ok", Reload),
    ["write", "ep", "/3/0/1", "******"] = lwm2m_gateway_cli:cmd_audit_args(["write", "ep", "/3/0/1", "secret", "String"]),
    ["read", "ep", "/3/0"] = lwm2m_gateway_cli:cmd_audit_args(["read", "ep", "/3/0"]).

%% The lines of docs/install.md, whose device is not registered here.
documented(_) ->
    {ok, Page} = file:read_file(os:getenv("INSTALL_PAGE")),
    Options = [global, multiline, {capture, [1], list}],
    {match, Commands} = re:run(Page, "^emqx ctl lwm2m ([^#\n]*[^# \n])", Options),
    {ok, Usage} = emqx_ctl:run(usage),
    Run = fun([Command]) -> {_, Printed} = emqx_ctl:run(string:lexemes(Command, " ")), Printed =/= Usage end,
    [] = [Command || Command <- Commands, not Run(Command)],
    true = length(Commands) >= 3.

page(_) ->
    {ok, 200, Headers, Html} = api(get, [<<"ui">>], #{}),
    contains("<!doctype html>", Html),
    contains("frame-ancestors 'self'", maps:get(<<"content-security-policy">>, Headers)),
    {ok, 200, #{<<"content-type">> := <<"text/javascript", _/binary>>}, _} = script(),
    {ok, 200, _, Devices} = api(get, [<<"api">>, <<"v1">>, <<"devices">>], #{query_string => #{<<"limit">> => <<"5">>}}),
    #{<<"devices">> := []} = jiffy:decode(Devices, [return_maps]),
    Path = [<<"api">>, <<"v1">>, <<"devices">>, <<"a/b">>],
    {ok, 404, _, Missing} = api(get, Path, #{}),
    contains("device-not-registered", Missing),
    Json = #{<<"content-type">> => <<"application/json">>, <<"host">> => <<"emqx:18083">>},
    Kick = fun(Extra) -> api(delete, Path, #{headers => maps:merge(Json, Extra)}) end,
    {ok, 403, _, _} = Kick(#{<<"sec-fetch-site">> => <<"cross-site">>}),
    {ok, 403, _, _} = Kick(#{<<"origin">> => <<"http://elsewhere">>}),
    %% An operator: it is asked whether the device is there.
    {ok, 404, _, _} = Kick(#{<<"origin">> => <<"http://emqx:18083">>, <<"sec-fetch-site">> => <<"same-origin">>}),
    {ok, 415, _, _} = api(post, Path, #{headers => #{<<"content-type">> => <<"text/plain">>}, body => <<"{}">>}),
    {error, not_found} = api(post, [<<"ui">>], #{}),
    [viewer, viewer, operator] = [role(Meta) || Meta <- [#{}, #{role => <<"viewer">>}, #{role => <<"administrator">>}]].

role(Meta) ->
    Path = [<<"api">>, <<"v1">>, <<"session">>],
    {ok, 200, _, Body} = lwm2m_gateway_app:on_handle_api_call(get, Path, #{}, #{auth_meta => Meta}),
    #{<<"role">> := Role} = jiffy:decode(Body, [return_maps]),
    binary_to_atom(Role).

script() ->
    api(get, [<<"main.js">>], #{}).

api(Method, Path, Request) ->
    lwm2m_gateway_app:on_handle_api_call(Method, Path, Request, #{}).

program_killed(_) ->
    #{pid := Pid, restarts := Before} = until_serving(),
    os:cmd("kill -9 " ++ integer_to_list(Pid)),
    until(fun() -> maps:get(restarts, lwm2m_gateway_program:status()) > Before end),
    #{pid := Next} = until_serving(),
    true = Next =/= Pid.

owner_killed(_) ->
    #{pid := Pid} = until_serving(),
    exit(whereis(lwm2m_gateway_program), kill),
    until(fun() -> not is_running(Pid) end),
    #{pid := Next} = until_serving(),
    true = Next =/= Pid.

wrong_configuration(_) ->
    #{pid := Pid} = until_serving(),
    {error, Reason} = lwm2m_gateway_app:on_config_changed(config(#{}), config(#{<<"udp_bind">> => 5683})),
    <<"udp_bind: expected text">> = Reason,
    ok = lwm2m_gateway_app:on_config_changed(config(#{}), config(#{<<"udp_bind">> => <<"nowhere">>})),
    until(fun() -> maps:get(problem, lwm2m_gateway_program:status()) =/= none end),
    #{state := serving, pid := Pid, problem := Problem} = lwm2m_gateway_program:status(),
    contains("listeners.udp.default.bind", Problem),
    ok = lwm2m_gateway_app:on_health_check(#{}).

right_configuration(_) ->
    #{pid := Pid} = lwm2m_gateway_program:status(),
    New = config(#{<<"max_devices">> => 50}),
    ok = lwm2m_gateway_app:on_config_changed(config(#{}), New),
    until(fun() -> maps:get(pid, lwm2m_gateway_program:status()) =/= Pid end),
    #{pid := Next, problem := none} = until_serving(),
    %% The same once more is no change.
    ok = lwm2m_gateway_app:on_config_changed(New, New),
    #{pid := Next} = until_serving().

exproto_changed(_) ->
    until(fun() -> length(standin:calls(update)) =:= 1 end),
    [#{<<"exproto">> := Changed}] = standin:calls(update),
    #{<<"listeners">> := #{<<"tcp">> := #{<<"lwm2m">> := #{<<"max_connections">> := 51}}}} = Changed,
    Others = #{<<"tcp">> => #{<<"lwm2m">> => #{<<"bind">> => <<"127.0.0.1:1">>}, <<"mine">> => #{<<"bind">> => <<"127.0.0.1:2">>}}},
    Operators = Changed#{<<"listeners">> => Others, <<"enable">> => false, <<"authentication">> => #{<<"backend">> => <<"http">>}},
    standin:put(gateway, #{<<"exproto">> => Operators, <<"stomp">> => #{<<"enable">> => true}}),
    lwm2m_gateway_exproto:serving(true),
    until(fun() -> length(standin:calls(update)) =:= 2 end),
    [#{<<"exproto">> := Mended, <<"stomp">> := #{<<"enable">> := true}} | _] = standin:calls(update),
    #{<<"enable">> := false, <<"authentication">> := #{<<"backend">> := <<"http">>},
      <<"listeners">> := #{<<"tcp">> := #{<<"lwm2m">> := Ours, <<"mine">> := #{<<"bind">> := <<"127.0.0.1:2">>}}}} = Mended,
    #{<<"bind">> := <<"127.0.0.1:27993">>} = Ours,
    lwm2m_gateway_exproto:serving(true),
    configured = lwm2m_gateway_exproto:status(),
    2 = length(standin:calls(update)).

exproto_tried_again(_) ->
    standin:put(gateway, #{}),
    standin:put(load_gateway, {error, {badconf, #{reason => eaddrinuse}}}),
    lwm2m_gateway_exproto:serving(true),
    {failed, Reason} = lwm2m_gateway_exproto:status(),
    contains("eaddrinuse", Reason),
    standin:put(load_gateway, ok),
    until(fun() -> lwm2m_gateway_exproto:status() =:= configured end).

stopped(_) ->
    #{pid := Pid} = until_serving(),
    {Time, ok} = timer:tc(fun() -> application:stop(?APP) end),
    true = Time < 6_000_000,
    false = is_running(Pid),
    none = standin:get({command, lwm2m}, none),
    {error, <<"stopped">>} = lwm2m_gateway_app:on_health_check(#{}),
    {ok, 503, _, _} = api(get, [<<"ui">>], #{}),
    %% The gateway of the cluster stays.
    #{<<"exproto">> := _} = standin:get(gateway, #{}),
    ok = application:start(?APP),
    until_serving().

stuck(_) ->
    #{pid := Pid} = until_serving(),
    signal("STOP", Pid),
    {Time, ok} = timer:tc(fun() -> application:stop(?APP) end),
    true = Time < 8_000_000,
    signal("CONT", Pid),
    until(fun() -> not is_running(Pid) end),
    ok = application:start(?APP),
    until_serving().

signal(Name, Pid) ->
    "" = os:cmd("kill -" ++ Name ++ " " ++ integer_to_list(Pid)).

without_exproto(_) ->
    ok = application:stop(?APP),
    Loads = length(standin:calls(load_gateway)),
    standin:put(gateways, [{stomp, #{}}]),
    standin:put(plugin_config, config(#{<<"mqtt_broker">> => <<"127.0.0.1:1">>})),
    ok = application:start(?APP),
    #{upstream := mqtt} = until_serving(),
    off = lwm2m_gateway_exproto:status(),
    Loads = length(standin:calls(load_gateway)).

upgraded(#{plugins := Plugins, folder := Folder}) ->
    ok = application:stop(?APP),
    ok = application:unload(?APP),
    {ok, [{application, ?APP, Properties}]} = file:consult(code:where_is_file("lwm2m_gateway.app")),
    Old = filename:dirname(code:lib_dir(?APP)),
    New = filename:join([Plugins, "lwm2m_gateway-999.0.1", "lwm2m_gateway-999.0.1"]),
    true = code:del_path(filename:join(code:lib_dir(?APP), "ebin")),
    ok = filelib:ensure_dir(New),
    ok = file:rename(filename:join(Old, filename:basename(Old)), New),
    App = {application, ?APP, lists:keystore(vsn, 1, Properties, {vsn, "999.0.1"})},
    ok = file:write_file(filename:join([New, "ebin", "lwm2m_gateway.app"]), io_lib:format("~p.~n", [App])),
    true = code:add_patha(filename:join(New, "ebin")),
    {ok, Before} = file:read_file_info(store(Folder)),
    ok = application:start(?APP),
    until_serving(),
    {ok, After} = file:read_file_info(store(Folder)),
    true = element(12, Before) =:= element(12, After).

store(Folder) ->
    filename:join([Folder, "data", "plugins", "lwm2m_gateway", "program", "lwm2m-gateway.redb"]).

%% Ports that an EMQX or a gateway beside this does not use.
config(Changes) ->
    maps:merge(
        #{
            <<"udp_bind">> => <<"127.0.0.1:25683">>,
            <<"admin_bind">> => <<"127.0.0.1:28085">>,
            <<"exproto_listener">> => <<"127.0.0.1:27993">>,
            <<"exproto_adapter">> => <<"http://127.0.0.1:29100">>,
            <<"exproto_handler">> => <<"127.0.0.1:29001">>
        },
        Changes
    ).

until_serving() ->
    until(fun() -> maps:get(state, lwm2m_gateway_program:status()) =:= serving end),
    lwm2m_gateway_program:status().

until(Holds) ->
    until(Holds, erlang:monotonic_time(millisecond) + ?PATIENCE).

until(Holds, End) ->
    case Holds() of
        true ->
            ok;
        false ->
            erlang:monotonic_time(millisecond) < End orelse error({not_in_time, lwm2m_gateway_program:status()}),
            timer:sleep(20),
            until(Holds, End)
    end.

is_running(Pid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(Pid)).

contains(Part, Whole) ->
    case string:find(Whole, Part) of
        nomatch -> error({not_found, Part, Whole});
        _ -> ok
    end.
