%% Supervises the owner of the program and the process that configures EMQX's exproto gateway. The owner restarts the
%% program itself, with pauses: a restart here is for a fault of the owner.
-module(lwm2m_gateway_sup).
-behaviour(supervisor).

-export([start_link/0, init/1]).

%% The program ends within four seconds (shutdown_timeout), and by force two seconds later. What is left of the ten
%% seconds that EMQX gives a stop is for a start that is under way, and for EMQX's own work on all nodes.
-define(PROGRAM_SHUTDOWN, 9_000).

start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Exproto = #{id => exproto, start => {lwm2m_gateway_exproto, start_link, []}},
    Program = #{
        id => program,
        start => {lwm2m_gateway_program, start_link, []},
        shutdown => ?PROGRAM_SHUTDOWN
    },
    {ok, {#{strategy => one_for_one, intensity => 10, period => 60}, [Exproto, Program]}}.
