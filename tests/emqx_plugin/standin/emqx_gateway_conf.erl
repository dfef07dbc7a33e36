-module(emqx_gateway_conf).
-export([load_gateway/2]).

%% Takes a list of listeners, and stores them by type and name, as EMQX does. Notes whether the handler listens.
load_gateway(Name, #{<<"listeners">> := Listeners, <<"handler">> := #{<<"address">> := Address}} = Config) ->
    Gateway = standin:get(gateway, #{}),
    standin:called(load_gateway, {Name, Config, listens(Address)}),
    case {standin:get(load_gateway, ok), Gateway} of
        {{error, Reason}, _} -> {error, Reason};
        {ok, #{Name := _}} -> {error, already_exist};
        {ok, _} ->
            Stored = lists:foldl(fun add/2, #{}, Listeners),
            standin:put(gateway, Gateway#{Name => Config#{<<"listeners">> => Stored}}),
            {ok, Config}
    end.

add(#{<<"type">> := Type, <<"name">> := Name} = Listener, All) ->
    Named = maps:get(Type, All, #{}),
    All#{Type => Named#{Name => maps:without([<<"type">>, <<"name">>], Listener)}}.

listens(Address) ->
    #{host := Host, port := Port} = uri_string:parse(Address),
    case gen_tcp:connect(binary_to_list(Host), Port, [], 1000) of
        {ok, Socket} -> gen_tcp:close(Socket), true;
        {error, _} -> false
    end.
