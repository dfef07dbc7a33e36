%% The callbacks that EMQX calls: start and stop of the application, and those of the plugin framework. EMQX finds this
%% module by its name, NAME_app. No callback waits for the program: EMQX gives a start, a stop and a change of the
%% configuration ten seconds for all nodes together.
-module(lwm2m_gateway_app).
-behaviour(application).

-export([start/2, stop/1]).
-export([on_config_changed/2, on_health_check/1, on_handle_api_call/4]).

start(_Type, _Arguments) ->
    {ok, Supervisor} = lwm2m_gateway_sup:start_link(),
    ok = emqx_ctl:register_command(lwm2m, {lwm2m_gateway_cli, cmd}, []),
    {ok, Supervisor}.

stop(_State) ->
    emqx_ctl:unregister_command(lwm2m),
    ok.

%% EMQX 5.9 and newer stores nothing when the answer is an error; older ones ignore the answer. EMQX also calls it while
%% the plugin is stopped, and at its installation.
on_config_changed(_Old, New) ->
    case lwm2m_gateway_config:settings(New) of
        {ok, _} -> lwm2m_gateway_program:configure(New);
        {error, Reason} -> {error, Reason}
    end.

%% Answers from the state of the process: EMQX sets no limit to the time of this call.
on_health_check(_Options) ->
    case lwm2m_gateway_program:status() of
        #{state := serving} -> ok;
        #{state := State, problem := Problem} -> {error, iolist_to_binary([atom_to_list(State), problem(Problem)])}
    end.

on_handle_api_call(Method, Path, Request, Context) ->
    lwm2m_gateway_page:handle(Method, Path, Request, Context).

problem(none) -> "";
problem(Text) -> [": ", Text].
